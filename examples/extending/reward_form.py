"""A form of the reciprocal reward in which only signs count."""

from rllib_reciprocator.intrinsic.reciprocity import ReciprocalRule

SIGNS = ReciprocalRule(sign_of_balance=True, sign_of_influence=True)
