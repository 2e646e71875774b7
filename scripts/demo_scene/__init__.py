"""The generator of the bundled demo scene: geometry, textures, cameras, rendering and COLMAP model."""
