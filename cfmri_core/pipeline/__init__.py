"""What users ask for: counterfactual, prediction, segmentation, each a volume in and a result out."""
