"""What the CounterfactualMRI module is made of; one concept per file.

Without Slicer, Qt or numpy: `problems`, `multipart`, `schema`, `client`, `connection`, `jobs`.
Slicer and VTK, no Qt: `exchange`, `acquisition`, `results`, `layout`, `logic`, `parameter_node`.
Qt: `controls`, `server_section`, `job_display`.
"""
