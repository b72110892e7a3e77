"""The Hugging Face Hub: what a failed request means, when to try again, and files of a release."""
