"""What runs came to, on a page that needs nothing beside it."""
