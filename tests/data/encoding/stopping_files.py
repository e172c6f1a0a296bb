"""Files that stop a process which decodes them before it has looked at their headers."""

import io
import os
import pathlib
import socket
import struct
import zlib

import numpy as np
import PIL.Image
import soundfile

RATE = 8000


def png(width, height, depth=1, color=0):
    """A PNG file of one gray, which is some thousand times smaller than its pixels."""
    row = b"\0" + b"\x55" * (-(-width * depth // 8) * {0: 1, 2: 3, 6: 4}[color])
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def image(form, width=8, height=8, frames=1, **options):
    """An image file of Pillow, animated if it has several frames."""
    mode = "RGB" if form in ("JPEG", "BMP") else "L"
    colors = [(i, 128, 255) if mode == "RGB" else i for i in range(frames)]
    made = [PIL.Image.new(mode, (width, height), color) for color in colors]
    if frames > 1:
        options.update(save_all=True, append_images=made[1:])
    file = io.BytesIO()
    made[0].save(file, form, **options)
    return file.getvalue()


def gif_with_declared_size(width, height):
    """A GIF file of one small frame on a screen of any size."""
    content = image("GIF")
    return content[:6] + struct.pack("<HH", width, height) + content[10:]


def jpeg_of_scans(count):
    """A progressive JPEG file whose last scan is repeated."""
    content = image("JPEG", 64, 64, progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + b"\xff\xd9"


def sound(subtype="PCM_16", form="WAV", seconds=0.5, channels=1, rate=RATE):
    """A file of noise."""
    size = (int(seconds * rate), channels)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, size)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def flac_bomb(seconds):
    """A FLAC file of silence, which takes three bytes a second."""
    file = io.BytesIO()
    samples = np.zeros(RATE * seconds, "int16")
    soundfile.write(file, samples, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def patched(content, offset, form, *values):
    """A file with other numbers at a place of its header."""
    changed = bytearray(content)
    struct.pack_into(form, changed, offset, *values)
    return bytes(changed)


def hole(path, size):
    """A sparse file: gigabytes that take no place on the disk."""
    with open(path, "wb") as file:
        file.truncate(size)


def special_files(folder, suffix):
    """Makes what is no regular file, and returns the names."""
    os.mkfifo(folder / f"pipe{suffix}")
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may have a hundred characters only
        unix.bind(f"socket{suffix}")
        os.chdir(here)
    links = {
        f"zero{suffix}": "/dev/zero",
        f"tty{suffix}": "/dev/tty",
        f"gone{suffix}": folder / "nowhere",
        f"loop{suffix}": folder / f"loop{suffix}",
    }
    for name, target in links.items():
        pathlib.Path(folder / name).symlink_to(target)
    return [f"pipe{suffix}", f"socket{suffix}", *links]


def image_files(huge):
    """Returns image files by name that take too much memory or time.

    Args:
        huge: whether files are made whose making takes seconds.
    """
    files = {
        "wide.png": png(2_000_000_000, 1)[:5000],
        "bits.png": png(22_000, 22_000),
        "screen.gif": gif_with_declared_size(60_000, 60_000),
        "scans.jpg": jpeg_of_scans(5000),
        "declared.bmp": patched(image("BMP"), 18, "<ii", 2**31 - 1, 2**31 - 1),
        "declared.jpg": image("JPEG").replace(
            b"\0\x11\x08\0\x08\0\x08", b"\0\x11\x08\xff\xff\xff\xff"
        ),
    }
    if huge:
        files["frames.gif"] = image("GIF", 4000, 4000, 60)
        files["frames.png"] = image("PNG", 3000, 3000, 90)
        files["frames.webp"] = image("WEBP", 3000, 3000, 70, lossless=True, quality=0, method=0)
        files["big.webp"] = image("WEBP", 16383, 16383, lossless=True, quality=0, method=0)
        files["deep.png"] = png(12_000, 9_000, 16, 6)
    return files


def sound_files():
    """Returns files of sound by name that were cut, or whose headers declare what is absurd."""
    whole = sound()
    files = {
        "1hz.wav": patched(whole, 24, "<I", 1),
        "4ghz.wav": patched(whole, 24, "<I", 4_000_000_000),
        "0hz.wav": patched(whole, 24, "<I", 0),
        "2gb.wav": patched(whole, 40, "<I", 2_000_000_000),
        "channels.wav": patched(whole, 22, "<H", 65535),
        "slow.wav": patched(sound(seconds=60), 24, "<I", 100),
        "bomb.flac": flac_bomb(3600),
        "chunks.wav": whole[:12] + b"junk\0\0\0\0" * 500_000 + whole[12:],
        "empty_chunks.wav": patched(whole, 40, "<I", 0)[:44] + b"junk\0\0\0\0" * 500_000,
        "cut.ogg": sound("VORBIS", "OGG", 2.0)[:-1000],
        "cut.flac": sound(form="FLAC")[:-1000],
    }
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"):
        files[f"cut_{subtype}.wav"] = sound(subtype)[:-1000]
    return files
