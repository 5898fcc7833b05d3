"""The ways in: command line, notebook, report, web page. They use only what `grad_cam` exports."""
