"""Training of adapters on pretrained generators."""
