"""Generators, discriminators and the losses that train them. Needs torch and safetensors, nothing else."""
