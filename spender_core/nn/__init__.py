"""Networks: encoder, decoder, the autoencoder made of them, and flows of its latents."""
