"""Blobs: content-addressed bytes, and who keeps them alive."""

from service.blobs.store import BlobStore, LocalBlobs, Stored

__all__ = ["BlobStore", "LocalBlobs", "Stored"]
