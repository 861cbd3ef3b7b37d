"""Other products' tables as a target: lines become rows that the product's own library reads. docs/targets.md"""
