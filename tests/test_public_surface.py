"""The public surface, name by name, so that it grows on purpose only.

Everything else is importable from its module and may change without notice.
"""

import pathlib
import re
import types

import pytest

import keras_multimodel as kmm

SURFACE = {
    "kmm": "MultiModel Task VARIANTS",
    "kmm.ablation": (
        "Cost Decision Difference Results Study cost decide paired_difference seeds_needed"
    ),
    "kmm.callbacks": """
        ExpertUse InputWait Resume StopOnDivergence TaskBoard TaskTable TensorBoardLog
        expert_use""",
    "kmm.data": """
        AudioPreprocessor BadExample BadExampleError BadExamples CategoryPreprocessor DataReport
        DropInputs GraphForm LabelsPreprocessor NumberPreprocessor SeriesPreprocessor Table
        infer_columns rows_to_tasks table
        ImageAugment ImagePreprocessor Position Preprocessor SpecAugment TextPreprocessor
        TreePreprocessor WaveformPreprocessor WordPiecePreprocessor augment batch encode mix report
        split train_text_preprocessor train_tree_preprocessor train_word_piece_preprocessor""",
    "kmm.data.schedules": "Adaptive Annealed Proportional Schedule Temperature Uniform",
    "kmm.datasets": """
        DatasetInfo audio_folder caption_folder coco_captions emoji_table image_classes
        image_folder imagenet2012 info librispeech load names npz_pairs penn_treebank tsv_pairs
        wmt14_translate""",
    "kmm.evaluation": (
        "Baseline bracket_f1 error_rates evaluate mismatched text_measures unigram_baseline"
    ),
    "kmm.generation": "BeamSearch Constraint Generation Hypothesis Stream TreeConstraint",
    "kmm.layers": """
        AttentionBlock AudioModality BiasBalancedRouter CategoryModality ConvBlock
        ExpertChoiceRouter FeedForward ImageModality ModalityNet MoELayer NoisyTopKRouter Router
        Routing SteppingBlock SwitchRouter TextModality TimingSignal TopKRouter
        BackboneModality LabelsModality NumberModality SeriesModality expert_layout_map""",
    "kmm.presets": "names upload",
    "kmm.tensor2tensor": "generate_2017 load_tensor2tensor_weights multimodel_2017",
    "kmm.weighting": "DWA GradNorm PCGrad TaskWeighting Uncertainty",
}
# Modules whose public functions and classes are all meant for users, and what is about figures.
MODULES = {
    "kmm.transfer": "Matrix log_perplexities measure variants",
    "kmm.distribution": "initialize",
    "kmm.losses": "Huber LabelSmoothedCrossentropy LabelsCrossentropy position_weights",
    "kmm.metrics": """
        LabelsF1 LogPerplexity MeanAbsoluteError RSquared StepMean TokenAccuracy TopKAccuracy""",
    "kmm.visualization": """
        AttentionMap Similarity attention_weights command_similarity expert_similarity
        over_fair_share plot_attention plot_expert_use plot_learning_curves plot_similarity""",
}


def _namespace(path):
    found = kmm
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    return found


def _names(module):
    """Returns the public names of a module, without the modules in it."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


@pytest.mark.parametrize("path", SURFACE)
def test_names_of_a_namespace(path):
    assert _names(_namespace(path)) == set(SURFACE[path].split())


@pytest.mark.parametrize("path", MODULES)
def test_names_of_a_module(path):
    module = _namespace(path)
    # Of a folder, the names are those that it exports, whose homes are its files.
    home = {name: getattr(vars(module)[name], "__module__", None) or "" for name in _names(module)}
    own = {name for name in home if f"{home[name]}.".startswith(f"{module.__name__}.")}
    assert own == set(MODULES[path].split())


def test_every_namespace_is_listed():
    listed = {path.split(".")[1] for path in [*SURFACE, *MODULES] if "." in path}
    lines = pathlib.Path(kmm.__file__).read_text()
    assert set(re.findall(r"from keras_multimodel import (\w+) as \1", lines)) == listed
    assert sum(len(names.split()) for names in SURFACE.values()) <= 126


def test_public_names_have_a_docstring():
    for path in SURFACE:
        for name in _names(_namespace(path)) - {"VARIANTS"}:
            assert getattr(_namespace(path), name).__doc__, f"{path}.{name}"
