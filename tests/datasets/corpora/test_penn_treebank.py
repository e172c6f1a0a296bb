import re
import types

import nltk
import pytest
import tensorflow as tf

from keras_multimodel import data, datasets

WSJ = """\

( (S
    (NP-SBJ-1 (NNP Mr.) (NNP Vinken) )
    (VP (VBZ is)
      (VP (VBN said)
        (S
          (NP-SBJ (-NONE- *-1) )
          (VP (TO to) (VP (VB read)
            (NP=2 (DT the) (NN caf\u00e9) )
            (PRN (-LRB- -LRB-) (SBAR (WHNP-3 (-NONE- 0) )) (-RRB- -RRB-) ))))))
    (. .) ))
( (NP (NN End)) )
"""


def read(folder, **arguments):
    return [
        {key: value.decode() for key, value in example.items()}
        for example in datasets.penn_treebank(folder, **arguments).as_numpy_iterator()
    ]


def test_shipped_trees_written_and_read_back(tmp_path):
    shipped = list(datasets.load("parse", "test").as_numpy_iterator())
    trees = [nltk.Tree.fromstring(example["targets"].decode()) for example in shipped]
    for number, start in enumerate(range(0, len(trees), 10)):
        folder = tmp_path / f"{number:02d}"
        folder.mkdir()
        printed = (f"( {tree.pformat(margin=40)} )\n" for tree in trees[start : start + 10])
        indented = ("\n  ".join(text.splitlines()) for text in printed)
        (folder / "wsj.mrg").write_text("\n\n".join(indented) + "\n")
    examples = read(tmp_path)
    assert [e["inputs"] for e in examples] == [s["inputs"].decode().strip() for s in shipped]
    assert [e["targets"] for e in examples] == [s["targets"].decode() for s in shipped]


def test_function_tags_traces_and_the_outer_bracket(tmp_path):
    (tmp_path / "wsj_0001.mrg").write_text(WSJ, encoding="utf-8")
    first, second = read(tmp_path)
    assert first["inputs"] == "Mr. Vinken is said to read the caf\u00e9 -LRB- -RRB- ."
    assert first["targets"] == (
        "(S (NP (NNP Mr.) (NNP Vinken)) (VP (VBZ is) (VP (VBN said) (S (VP (TO to) (VP (VB read) "
        "(NP (DT the) (NN caf\u00e9)) (PRN (-LRB- -LRB-) (-RRB- -RRB-))))))) (. .))"
    )
    assert first["source"].endswith("wsj_0001.mrg:2") and second["source"].endswith(":12")
    assert (second["inputs"], second["targets"]) == ("End", "(NP (NN End))")


def test_everything_kept_is_what_nltk_reads(tmp_path):
    (tmp_path / "a.mrg").write_text(WSJ, encoding="utf-8")
    texts = re.split(r"\n(?=\()", WSJ.strip())
    trees = [nltk.Tree.fromstring(text, remove_empty_top_bracketing=True) for text in texts]
    examples = read(tmp_path, function_tags=True, traces=True)
    assert [nltk.Tree.fromstring(e["targets"]) for e in examples] == trees
    assert [e["inputs"].split() for e in examples] == [tree.leaves() for tree in trees]


def test_bad_trees_and_their_good_neighbours(tmp_path):
    path = tmp_path / "a.mrg"
    path.write_text(
        "a note\n(S (A a)\n  (B b)\n(S (C c)) (S (D d))\n(S (E e)))\n(S (-NONE- *))\n(S\n (F f))"
    )
    examples = read(tmp_path)
    assert [(e["source"].rpartition(":")[2], e["inputs"]) for e in examples] == [
        ("1", ""),
        ("2", ""),
        ("4", "c"),
        ("4", "d"),
        ("5", "e"),
        ("5", ""),
        ("6", ""),
        ("7", "f"),
    ]
    reasons = [e["problem"].partition(":")[0] for e in examples]
    broken = "broken tree"
    assert reasons == [broken, broken, "", "", "", broken, "empty", ""]
    assert "1 are open at its end" in examples[1]["problem"]


def test_good_trees_survive_encoding(tmp_path):
    (tmp_path / "a.mrg").write_text("(S (A a))\n(S (A a)\n(S (B a))\n")
    (tmp_path / "b.txt").write_text("(S (C a))\n")
    trees = data.train_tree_preprocessor(["(S (A a))", "(S (B a))"])
    assert [trees(e["targets"]).shape[0] for e in read(tmp_path) if not e["problem"]] == [4, 4]
    assert len(read(tmp_path, pattern="*.txt")) == 1


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="`folder` must be a folder"):
        datasets.penn_treebank(tmp_path / "none")
    with pytest.raises(ValueError, match=r"`folder` must have files \*\*/\*.mrg"):
        datasets.penn_treebank(tmp_path)


@pytest.mark.parametrize(
    "encoding,end", [("utf-8-sig", "\r"), ("utf-16", "\r\n"), ("utf-32", "\n")]
)
def test_encodings_and_line_ends(tmp_path, encoding, end):
    expected = tmp_path / "plain" / "a.mrg"
    odd = tmp_path / "odd" / "a.mrg"
    for path, text, form in ((expected, WSJ, "utf-8"), (odd, WSJ.replace("\n", end), encoding)):
        path.parent.mkdir()
        path.write_bytes(text.encode(form))
    trees = read(expected.parent)
    assert [{**e, "source": e["source"].replace("odd", "plain")} for e in read(odd.parent)] == trees


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_a_byte_that_is_not_utf8_spoils_its_tree_only(tmp_path, on_bad):
    path = tmp_path / "a.mrg"
    path.write_bytes(
        b"(S (A a))\n(S (A caf\xe9))\n(S (A b))\n(S\n  (A \xff)\n  (B b))\n(S (A c))\n\xfe note\n"
    )
    report = data.BadExamples()
    assert [e["inputs"] for e in read(tmp_path)] == ["a", "", "b", "", "c", ""]
    trees = data.train_tree_preprocessor(["(S (A a))"])
    net = types.SimpleNamespace(preprocessor=trees)
    words = types.SimpleNamespace(preprocessor=None)
    task = types.SimpleNamespace(
        name="parse", inputs=words, targets=net, max_input_length=None, max_target_length=None
    )
    encoded = data.encode(datasets.penn_treebank(tmp_path), task, on_bad=on_bad, report=report)
    if on_bad == "raise":
        with pytest.raises(tf.errors.OpError, match=r"a\.mrg:2: not UTF-8"):
            list(encoded)
        return
    with pytest.warns(UserWarning, match="not UTF-8 +3"):
        assert [e["inputs"] for e in encoded.as_numpy_iterator()] == [b"a", b"b", b"c"]
    assert [e.place for e in report.examples] == [f"{path}:{line}" for line in (2, 4, 8)]


def test_hidden_files_are_no_trees(tmp_path):
    for name in (".cache/a.mrg", "x/.git/a.mrg", "__MACOSX/a.mrg", "x/._a.mrg", "x/a.mrg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("(S (A a))\n")
    assert [e["source"] for e in read(tmp_path)] == [f"{tmp_path}/x/a.mrg:1"]
    assert [e["source"] for e in read(tmp_path, pattern="**/*")] == [f"{tmp_path}/x/a.mrg:1"]
