"""What ships Quarry, read and run: workflows, the Jenkinsfile, and the scripts they call."""
