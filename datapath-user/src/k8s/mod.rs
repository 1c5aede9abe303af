//! Kubernetes objects become model events. The only place with kube types.
