"""Generate text from a .pt2 file of `python -m gpt export` with PyTorch only, always taking the likeliest character.

python docs/standalone.py model.pt2 "ROMEO:" 300
"""

import argparse
import json
import sys
import zipfile

import torch

parser = argparse.ArgumentParser(description="Generate text from a .pt2 file with PyTorch only. Opening one runs code in it.")
parser.add_argument("file", help="a file that `python -m gpt export` wrote")
parser.add_argument("prompt", help="the text to continue")
parser.add_argument("length", type=int, help="number of characters to generate")
args = parser.parse_args()
try:
    with zipfile.ZipFile(args.file) as archive:
        metadata, tokenizer = (json.loads(archive.read(f"archive/extra/{name}.json")) for name in ("model", "tokenizer"))
    compiled = metadata["compiled"]
    program = torch._inductor.aoti_load_package(args.file) if compiled else torch.export.load(args.file).module()
except Exception:  # zipfile, json and PyTorch raise many classes
    sys.exit(f"{args.file} cannot be opened here; make it on this machine with `python -m gpt export`")
if tokenizer["pre_tokenizer"]:
    sys.exit(f"{args.file} generates pieces of words, which need more than torch: python -m gpt --model {args.file}")
vocab = tokenizer["model"]["vocab"]
characters = {i: character for character, i in vocab.items()}
if unknown := set(args.prompt) - vocab.keys():
    sys.exit(f"the model does not know {', '.join(map(repr, sorted(unknown)))}; leave it out of the prompt")


def empty_state() -> list[torch.Tensor]:
    """The state before a document."""
    return [torch.zeros(1, *shape) for shape in metadata["state"]]


ids, state, eos = [vocab[character] for character in args.prompt], empty_state(), metadata["config"]["eos_token_id"]
if eos is not None or not ids:  # a document starts after an end token, a text without a prompt after a newline
    ids = [vocab["\n"] if eos is None else eos, *ids]
for _ in range(args.length):
    logits, state = program(torch.tensor([ids]), state)
    ids = [int(logits[0, -1].argmax())]
    print(characters[ids[0]], end="", flush=True)
    if ids[0] == eos:
        state = empty_state()
