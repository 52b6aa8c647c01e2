"""Makes the project's tiny demonstration Whisper from nothing: `python tools/demo_model/train.py --help`."""
