-- Two databases, each entered by its owner alone. The image runs this once, when the volume is new; the passwords are in its environment.
\getenv mlflow MLFLOW_PASSWORD
\getenv airflow AIRFLOW_PASSWORD
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE airflow LOGIN PASSWORD :'airflow';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE airflow OWNER airflow;
REVOKE ALL ON DATABASE mlflow, airflow, postgres FROM PUBLIC;
