"""What tests share: servers, clusters, stand-ins, scenes and paths."""
