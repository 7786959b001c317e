//! What people and machines read: terminal table, JUnit, JSON
