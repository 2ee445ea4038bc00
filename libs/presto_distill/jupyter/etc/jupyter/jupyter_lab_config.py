"""JupyterLab opens on the start page where it is started in a checkout of Presto."""

from pathlib import Path

if Path("notebooks/start.ipynb").is_file() and Path("libs/presto_distill").is_dir():
    get_config().LabApp.default_url = "/lab/tree/notebooks/start.ipynb"
