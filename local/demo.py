"""The end of `make demo`: real questions to the running stack, and where to go on."""

import ask
import stack
from processes import HOME, url
from quarry_contract.releases import read_release, release_path

import services

QUESTIONS = [
    "Who is the fire safety coordinator for the site?",
    "How many of the induction test questions does a new starter have to get right?",
    "What is the value of the scaffolding subcontract?",
    "What share of the site's construction waste is allowed to go to landfill?",
    "Who carried out the scaffold inspection of 10 February 2026?",
    "What is the active substance on which Slowset R4 is based?",
    "What is the weekly hire charge for tower crane TC1?",
]

if __name__ == "__main__":
    for question in QUESTIONS:
        ask.show(question, ask.ask(question))
    release = read_release(release_path(HOME, stack.live()))
    print(f"\nServing release {release.release_id}: {release.reader}, {release.retriever}, index {release.index_generation}.")
    print(f"Ask your own:    make ask Q=\"...\"   or {url(services.PORTS['gateway'])}/docs")
    print(f"Models and runs: {url(services.PORTS['mlflow'])}")
    print("Stop it all:     make down")
