# Copy to terraform.tfvars and say your own.
account_id    = "111122223333"
region        = "eu-central-1"
repository    = "your-organisation/quarry"
alarm_email   = "you@example.com"
state_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"

# Who administers the cluster, and from where.
administrators = ["arn:aws:iam::111122223333:role/administrator"]
api_cidrs      = ["203.0.113.0/24"]

clients = {
  first = { rate = 2, burst = 4, requests_per_day = 10000 }
}
