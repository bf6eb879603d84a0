"""The scalar lab: a language model one number at a time, honest and fast."""
