"""Mutation testing of everything between a call and its result: ``tensorbus conform --mutate``."""
