"""Packaging of cardiac_autoseg: metadata, dependencies, extras and the cas_* commands."""

from pathlib import Path

from setuptools import find_packages, setup

COMMANDS = (
    "import",
    "plan_and_preprocess",
    "simulate_annotator",
    "annotators",
    "train",
    "run",
    "status",
    "ensemble",
    "predict",
    "evaluate",
    "compare",
    "report",
    "models",
    "completion",
    "demo",
)

setup(
    name="cardiac_autoseg",
    version="0.1.0",
    description="Self-configuring segmentation of short-axis cardiac cine-MRI, one model per annotation source",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["cardiac_autoseg", "cardiac_autoseg.*", "planning", "planning.*"]),
    package_data={
        "cardiac_autoseg": [
            "py.typed",
            "report/*.html",
            "report/*.css",
            "report/*.js",
            "annotation/profiles/*.json",
            "models/*/*",
        ]
    },
    install_requires=[
        "torch>=2.4,<3",
        "numpy>=2",
        "scipy>=1.13",
        "scikit-learn>=1.4.2",
        "SimpleITK>=2.4.1",
        "batchgenerators>=0.25.1",
        "connected-components-3d>=3.17",
        "safetensors>=0.4",
        "matplotlib>=3.8.4",
        "jinja2>=3.1",
        "tqdm>=4.66",
        "statsmodels>=0.14.2",
        "pydicom>=3.0.1",
        "highdicom>=0.28",
        "pylibjpeg>=2",
        "pylibjpeg-libjpeg>=2.2",
        "pylibjpeg-openjpeg>=2.3",
        "pyjpegls>=1.5",
        "pynrrd>=1.1.1",
        "pillow>=10",
        "contourpy>=1.2.1",
        "markupsafe>=2.1.2",
        "isal>=1.5.1",
        "threadpoolctl>=3",
    ],
    extras_require={
        "onnx": ["onnx>=1.16", "onnxruntime>=1.19"],
        "completion": ["shtab>=1.7"],
        "cluster": ["ray>=2.50"],
        "remote": ["fsspec>=2024.9", "s3fs>=2024.9"],
        "test": [
            "pytest>=8",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.11",
            "medpy>=0.5.2",
            "pandas>=2.2.2",
            "pingouin>=0.6",
            "onnx>=1.16",
            "onnxruntime>=1.19",
            "shtab>=1.7",
            "ray>=2.50",
            "s3fs>=2024.9",
            "moto[s3,server]>=5.1",
            "pyyaml>=6",
        ],
    },
    entry_points={
        # cardiac_autoseg.cli.import_ because `import` is a keyword.
        "console_scripts": [
            f"cas_{name} = cardiac_autoseg.cli.{name + '_' if name == 'import' else name}:main" for name in COMMANDS
        ]
    },
)
