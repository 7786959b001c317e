//! Faults: what a scenario asks for, built from levers and proven
