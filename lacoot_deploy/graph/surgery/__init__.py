"""The surgery hall: cuts, repairs and refits, applied with everything else carried over."""
