"""Optimal transport: entropic plans by Sinkhorn, and spherical k-means."""

from tag2mask.ot.kmeans import Clusters, spherical_kmeans
from tag2mask.ot.transport import TransportPlan, sinkhorn

__all__ = ["Clusters", "TransportPlan", "sinkhorn", "spherical_kmeans"]
