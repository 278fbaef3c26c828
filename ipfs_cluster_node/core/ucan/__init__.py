"""UCAN 1.0: who may do what, decided over tokens that are read and verified already."""
