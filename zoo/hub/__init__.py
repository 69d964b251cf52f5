"""The network: official downloads, the Hugging Face hub, torch.hub; and the search for the weights of a name."""
