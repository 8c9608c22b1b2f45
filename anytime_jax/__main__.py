"""`python -m anytime_jax VERB ...`"""

from anytime_jax.commands import main

if __name__ == "__main__":
    main.process()
