"""The formats Quarry's services share: messages, error codes, manifests. Standard library only."""
