"""The Hugging Face Hub: what a failed request means, when to ask again, and files of a release."""
