"""What peers say to each other, and how it travels.

The ground of Murmur: manifests, signed messages, identities, hashes, tensors, the libp2p network. No torch, no web3.
"""
