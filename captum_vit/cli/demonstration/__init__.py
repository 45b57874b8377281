"""What ``captum-vit demo`` measures, draws and writes."""
