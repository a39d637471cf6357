"""The journal: contract, failures, owners, privacy."""
