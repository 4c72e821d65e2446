"""Generator families behind the protocol; a new family is one new file here."""
