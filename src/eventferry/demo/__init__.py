"""`eventferry demo`: the main job on real data."""
