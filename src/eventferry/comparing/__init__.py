"""Comparing: is a source sound, and are two sources equal?"""
