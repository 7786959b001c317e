//! Controllers: pure decisions and the one driver that runs them
