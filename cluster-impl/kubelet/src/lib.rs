//! The kubelet: pod workers over a container runtime
