"""Writes pairs of sentences about sixteen made-up medicines: train.jsonl and heldout.jsonl beside this script, or in DIR.

    python3 make_pairs.py [DIR]

An anchor names a medicine, its positive says what it is for. No model can know the names. The held-out pairs use other
sentences on both sides; every run of sixteen lines has each medicine once, so that an evaluation with `--batch-size 16`
asks which of sixteen sentences is meant.
"""
import json
import sys
from pathlib import Path

MEDICINES = {
    "velzanib": ("migraine", "severe recurring headaches with nausea"),
    "morquex": ("heart failure", "a heart that pumps too weakly"),
    "tilvadrin": ("eczema", "dry and itchy inflamed skin"),
    "pexolate": ("osteoporosis", "bones that become brittle with age"),
    "zandrivo": ("diabetes", "blood sugar that stays too high"),
    "kelbrix": ("asthma", "airways that tighten and wheeze"),
    "orvantil": ("kidney disease", "kidneys that filter the blood poorly"),
    "quistane": ("glaucoma", "pressure inside the eye that harms the optic nerve"),
    "fendorel": ("insomnia", "lying awake and unable to fall asleep"),
    "jubrexa": ("arthritis", "swollen and painful joints"),
    "lomvitor": ("hepatitis", "an inflamed liver after a virus"),
    "wexarin": ("bronchitis", "a deep cough with mucus"),
    "yastrole": ("anxiety", "constant worry and panic"),
    "dravonex": ("stomach ulcers", "a sore in the lining of the stomach"),
    "ulmetide": ("malaria", "a fever that mosquitoes spread in the tropics"),
    "bivoqar": ("tinnitus", "a ringing sound in the ears"),
}

TRAIN = [
    ("{name} was prescribed at the last visit.", "The patient was given a drug for {disease}."),
    ("How often should I take {name}?", "Dosing of a {disease} medicine."),
    ("The trial compared {name} with a placebo.", "A study of a new treatment of {disease}."),
    ("My doctor told me to start {name}.", "Treatment was begun for {symptom}."),
    ("{name} tablets are sold by prescription only.", "A prescription medicine against {disease}."),
    ("Side effects of {name} were mild.", "The {disease} drug was well tolerated."),
    ("She has been on {name} since spring.", "She suffers from {symptom}."),
    ("Is {name} safe for older people?", "Safety of a therapy for {disease}."),
]
HELD_OUT = [
    ("The pharmacy had run out of {name}.", "They could not buy anything to help with {symptom}."),
    ("Studies of {name} are reviewed in this chapter.", "This chapter is about the management of {disease}."),
    ("He stopped {name} after two weeks.", "He no longer takes his pills for {disease}."),
    ("Ask your nurse before you use {name}.", "Advice for people with {symptom}."),
]


def write(path, templates):
    lines = []
    for anchor, positive in templates:
        for name, (disease, symptom) in MEDICINES.items():
            pair = {"anchor": anchor.format(name=name), "positive": positive.format(disease=disease, symptom=symptom)}
            lines.append(json.dumps(pair) + "\n")
    path.write_text("".join(lines))


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", TRAIN)
    write(folder / "heldout.jsonl", HELD_OUT)
    # the arguments of `toktune train` that make tokens of the names
    print(" ".join(f"--add-token {name}" for name in MEDICINES))


if __name__ == "__main__":
    main()
