//! The machines step by step: what they ask for, in the plain cases.
