"""Use a bundle in an application: write text as it is made.

python docs/examples/stream_text.py BUNDLE "The list of" [TOKENS]
"""

import sys

import ssmpress


def main(folder: str, prompt: str, tokens: int = 40) -> None:
    model = ssmpress.open_bundle(folder, threads=2)
    print(prompt, end="", flush=True)
    for piece in model.stream(prompt, tokens, temperature=0.8, top_k=40, seed=1):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
