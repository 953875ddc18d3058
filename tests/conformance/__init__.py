"""The conformance kit: is this backend right? See README.md."""
