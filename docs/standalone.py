"""Write with a file of `python -m gpt export`, by torch alone: python standalone.py model.pt2 "ROMEO:" 300"""

import json
import sys
import zipfile

import torch

path, prompt, length = sys.argv[1:]
file = zipfile.ZipFile(path)
about, tokenizer = (json.loads(file.read(f"archive/extra/{name}.json")) for name in ("model", "tokenizer"))
program = torch._inductor.aoti_load_package(path) if about["compiled"] else torch.export.load(path).module()
if tokenizer["pre_tokenizer"]:
    sys.exit(f"{path} writes pieces of words, which need more than torch: python -m gpt --model {path}")
vocab = tokenizer["model"]["vocab"]
letters = {i: letter for letter, i in vocab.items()}
ids, state = torch.tensor([[vocab[letter] for letter in prompt]]), [torch.zeros(1, *shape) for shape in about["state"]]
for _ in range(int(length)):
    logits, state = program(ids, state)
    ids = logits[:, -1:].argmax(-1)
    print(letters[ids.item()], end="", flush=True)
