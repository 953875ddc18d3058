"""The oracle's own tests: laws, golden values with their derivation, and agreement with diffusers."""
