"""Folders of finished and measured runs, without having trained anything."""

from __future__ import annotations

import csv

from evaluation import tables
from utils.files import write_json
from utils.run_folder import point_cloud_path

ITERATIONS = 7000
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_run(output, scene="fox", row="3dgs", seed=0, psnr=25.0, gaussians=100, dataset="", **changes):
    """A finished and measured run; PSNR of the training views is 1 dB higher. Returns its folder."""
    folder = output / scene / row / f"seed_{seed}"
    measures = {"SSIM": psnr / 100, "PSNR": psnr, "LPIPS": 1 - psnr / 100} | changes.pop("measures", {})
    path = point_cloud_path(folder, ITERATIONS)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(248 * gaussians + 1000))
    command = f"python train.py -s {scene} --seed {seed} -m eval/{scene}/{row}/seed_{seed}"
    record = {"dataset": dataset, "scene": scene, "row": row, "variant": changes.pop("variant", row)}
    write_json(folder / tables.RECORD, record | {"seed": seed, "command": command, "settings": {}})
    config = {
        "finished": True,
        "iteration": ITERATIONS,
        "timing": {"training_seconds": 90.0 + 60 * seed},
        "views": {"train": 43, "test": 7},
        "measures": {str(ITERATIONS): {"gaussians": gaussians}},
        "versions": {"commit": COMMIT},
        "machine": {"processor": "Z80", "cores": 2, "threads": 1, "device": "cpu"},
        "peak_memory_bytes": 3_000_000_000,
    }
    write_json(folder / "config.json", config | changes)
    train = measures | {"PSNR": measures["PSNR"] + 1}
    results = {**measures, "train": train, "views": config["views"], "lpips_missing": None}
    write_json(folder / "results.json", {f"ours_{ITERATIONS}": results})
    return folder


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
