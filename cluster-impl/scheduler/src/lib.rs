//! The scheduler: filter and score plugins over a cached view of the cluster
