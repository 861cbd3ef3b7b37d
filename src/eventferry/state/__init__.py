"""What a store holds beside its events: secrets, snapshots, subscribers, figures, freezes."""
