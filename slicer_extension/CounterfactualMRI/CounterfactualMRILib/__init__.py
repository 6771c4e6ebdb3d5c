"""What the CounterfactualMRI module is made of; one concept per file.

Without Slicer or Qt: `problems`, `multipart`, `schema`, `client`, `connection`, `datastore`, `training`, `nifti`,
`jobs`, `reader_study`, `verdict`.
Slicer and VTK, no Qt: `exchange`, `acquisition`, `results`, `cases`, `segmentation`, `difference`, `uncertainty`,
`volume_display`, `training_curve`, `layout`, `logic`, `parameter_node`.
Qt: `controls`, `job_display`, and the panel's sections (`server_section`, `case_section`, `results_section`,
`training_section`, `reader_section`); `sample_data`.
"""
