"""Lanes: one per project and resource class; where quotas and fair shares are counted."""
