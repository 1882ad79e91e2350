"""`python -m lacoot_deploy` is the command `lacoot-deploy`."""

from lacoot_deploy_cli.main import main

if __name__ == "__main__":
    main()
