"""Adapters (LoRA, DoRA, rsLoRA) for every generator family: settings, wiring, folders, export."""
